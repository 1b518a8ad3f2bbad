"""The core's own components, declared in `songkit.components.plugin` like those of any plugin."""

"""Judges: models and measures that score songs. Runs without a hub; see `songkit_judges.plugin` for the list."""

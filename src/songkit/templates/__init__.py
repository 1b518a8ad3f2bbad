"""What the program writes for its users. `songkit.scaffold` reads the files here; nothing imports them."""

"""What `songkit plugins new` writes: `shared` for every kind, and a small working component for each."""

"""What this machine can do: facts, and what each means for building and running images."""

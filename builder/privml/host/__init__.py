"""Check the host: facts about this machine, and their consequences for building and running images."""

"""Speed and memory beside peers; nothing here runs in CI."""

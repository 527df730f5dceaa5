"""Where frames come from: files, cameras, network streams, memory; one file a kind."""

"""Compare our networks, samplers and metrics with the modules that their authors published, on random weights."""

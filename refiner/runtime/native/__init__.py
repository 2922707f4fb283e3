"""Our own engine for a CPU: the compiled executor of `csrc`, from an ordinary checkpoint, without PyTorch."""

"""The method's mathematics: pure functions on tensors, one published idea a file."""

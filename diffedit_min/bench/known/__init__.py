"""Known answers: every method on scenes whose true edit and true mask are known."""

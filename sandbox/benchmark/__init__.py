"""The benchmark: the model, its tokens, and the reference loop that every submission is compared with."""

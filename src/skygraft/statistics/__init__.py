"""Statistics of what came back: completeness, biases, selection functions, for any table of fakes."""

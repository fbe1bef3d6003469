"""gate-model: numbers in, one decision out, with every rule, its bound, its value and its verdict."""

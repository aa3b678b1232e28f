"""The token MDP, its Gymnasium views, task sources, tokenizers and the built-in environments."""

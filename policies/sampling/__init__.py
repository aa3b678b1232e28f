"""Decoding: samplers and the optimized decoder behind them."""

"""Bits straight from latents and their distributions: the definition, and the operators with kernels."""

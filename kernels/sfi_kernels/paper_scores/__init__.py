"""The scores of Slow-Fast Inference's selector, from the mass on."""

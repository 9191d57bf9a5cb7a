"""The operator: likelihoods in, bits per pixel out. No model, no file, no picture."""

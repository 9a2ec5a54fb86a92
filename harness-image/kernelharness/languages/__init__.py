"""One file per language; README.md here is the contract of native kernels."""

"""Makes a bundle of verified kernels, as a folder or a ConfigMap. `bundled/` is code that travels along."""

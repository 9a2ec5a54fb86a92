"""KernelSearch: a Kubernetes operator, and its local twin, that search for faster verified kernels."""

__version__ = "0.1.0"

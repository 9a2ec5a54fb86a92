"""A real single-node Kubernetes on this machine, from pinned Go modules and without a Docker daemon.

`up` builds the components once (binaries), writes their configuration (pki, config), starts them in namespaces of
their own (sandbox, network, supervisor, components) and applies what a cluster needs to be useful (bringup). `images`
builds the project's images from the Dockerfiles that users build. See README.md beside this package.

Only Python's standard library is used: the scripts run before anything is installed.
"""

"""Many simulations at once, on this machine or a cluster, resumable."""

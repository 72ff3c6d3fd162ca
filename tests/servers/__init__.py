"""Real servers, watched, fitted and predicted: `make validate-servers`."""

"""`make bench-gateway`: gateways side by side in front of the same upstream."""

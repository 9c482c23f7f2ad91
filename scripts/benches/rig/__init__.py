"""What the benches are built of: simulated cameras, the product, peers, and honest accounting of CPU and frames."""

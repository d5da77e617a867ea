"""What runs rankserve somewhere: so far the demo, on the machine at hand."""

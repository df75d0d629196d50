"""What is known of outside providers."""

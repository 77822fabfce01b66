"""What plugins may import from the platform: primitives that several of them share."""

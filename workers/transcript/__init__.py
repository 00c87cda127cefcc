"""What makes a recording's transcript of its segments' words."""

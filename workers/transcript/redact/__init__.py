"""What is said of a card or an account in a protected call, found and taken out. Pure."""

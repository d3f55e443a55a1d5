"""What fills holes, and says where they are, without weights."""

"""Small files expanded or laid out for a loader at install time."""

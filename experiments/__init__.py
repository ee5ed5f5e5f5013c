"""Long measurements and launchers; nothing here is installed."""

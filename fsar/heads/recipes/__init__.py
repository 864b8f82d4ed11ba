"""Published training recipes and their schedules."""

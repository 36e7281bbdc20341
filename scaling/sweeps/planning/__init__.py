"""From what a sweep asks for to the runs that give it."""

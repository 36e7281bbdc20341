"""Planning: the points of a sweep's grids, its model shapes, and the status of its runs."""

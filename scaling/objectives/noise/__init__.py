"""What is done to a text so that a model may undo it: numpy alone, whole batches at a time."""

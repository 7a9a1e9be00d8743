"""Documents of users: uploaded, split into chunks, embedded in the background, and found for questions to models."""

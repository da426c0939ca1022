"""What runs a campaign's images: the task of a worker, the queue of tasks, and the driver that hands them out."""

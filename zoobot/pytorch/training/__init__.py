"""Import paths of Zoobot 2.x for finetuning, losses and representations."""

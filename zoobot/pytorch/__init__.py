"""Import paths of Zoobot 2.x for models, training and predictions."""

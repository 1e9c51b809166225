"""What documents claim about models and their training, compared with their own logs, with the code and with a new training."""

"""Alert rules as values, the measurements that they judge, and the life of an alert. No clock, no file, no message."""

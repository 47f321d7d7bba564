"""Reports as HTML: values in, text out. Everything that comes from outside is escaped here and nowhere else."""

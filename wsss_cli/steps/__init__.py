"""What is done with one image, apart from where it comes from and goes to: stages share it, and never each other."""

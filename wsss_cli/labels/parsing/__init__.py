"""What several label readers share: opening JSON, XML and lists of images without trusting them."""

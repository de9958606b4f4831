"""What is asked, which runs answer it, and what follows."""

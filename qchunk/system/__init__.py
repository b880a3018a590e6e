"""What is beside the subject: files, processes, mistakes, functions of the user's own."""

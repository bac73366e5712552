"""What stands between the project and the machine: errors, files, paths, standard streams."""

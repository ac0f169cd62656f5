"""What is made of the records of a data set; one metric, one file."""

"""Command line of the study of fixed-size source vectors, python -m experiments.bottleneck."""

from experiments.bottleneck.study import STUDY
from experiments.lab.launch import driver

if __name__ == '__main__':
  driver.main(STUDY)

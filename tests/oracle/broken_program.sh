#!/bin/sh
# Stands for a program that tells its version and does nothing else.
[ "$*" = --version ] && echo 'diffusionlm 0.0.0' && exit 0
exit 1

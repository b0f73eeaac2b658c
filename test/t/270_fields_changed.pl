# What people change by hand at either service is seen, said, and mended.

use strict;
use warnings;
